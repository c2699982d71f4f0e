-- What an export finds of a number that was erased.
CREATE INDEX CONCURRENTLY IF NOT EXISTS calls_erased ON calls (customer_hash) WHERE customer_hash IS NOT NULL;
