DROP TABLE caller_days;
ALTER TABLE api_keys
    DROP COLUMN daily_calls,
    DROP COLUMN dial_prefixes;
