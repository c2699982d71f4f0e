DROP INDEX calls_campaign;
