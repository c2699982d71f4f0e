DROP INDEX calls_erased;
