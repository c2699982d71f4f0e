DROP INDEX calls_transfer;
