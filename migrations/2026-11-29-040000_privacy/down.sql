DROP FUNCTION audit_forget(interval, bigint);
DROP FUNCTION suppression_history_hash(text);
DROP FUNCTION call_events_untell(uuid[]);
ALTER TABLE calls DROP COLUMN customer_hash, DROP COLUMN held_at, DROP COLUMN hold_reason;
DROP TABLE number_holds;
DROP FUNCTION number_hash(text);
DROP TABLE number_hash_key;
DROP TABLE audit;
DROP FUNCTION audit_is_kept();
