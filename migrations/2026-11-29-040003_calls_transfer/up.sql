-- What an erasure of the number finds that a call was passed on to.
CREATE INDEX CONCURRENTLY IF NOT EXISTS calls_transfer ON calls (transfer_to) WHERE transfer_to IS NOT NULL;
