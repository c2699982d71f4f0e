DROP INDEX calls_recorded;
