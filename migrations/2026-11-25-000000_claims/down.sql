SET LOCAL lock_timeout = '5s';

DROP INDEX webhook_inbox_received;
DROP INDEX calls_retention;
CREATE INDEX calls_due ON calls (due_at) WHERE state = 'queued';
DROP INDEX calls_expiry;
DROP INDEX calls_queue_due;
DROP INDEX calls_queue;
DROP INDEX calls_single_flight;
DROP INDEX calls_active_customer;
DROP INDEX calls_active;
ALTER TABLE calls DROP COLUMN blanked_at;
ALTER TABLE calls DROP COLUMN settle_polls;
ALTER TABLE accounts DROP COLUMN streams_checked_at;
ALTER TABLE accounts DROP COLUMN utc_offset_minutes;
DROP TRIGGER accounts_rates ON accounts;
DROP FUNCTION rates_of_account();
DROP TABLE rates;
