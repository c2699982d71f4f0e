SET LOCAL lock_timeout = '5s';

-- What a key may dial; null where it has no limit of its own. A release before takes such a key as one without: revoke it to go back.
ALTER TABLE api_keys
    -- As in DIAL_ALLOWED_PREFIXES, with commas between.
    ADD COLUMN dial_prefixes text,
    -- Calls of its caller in a day.
    ADD COLUMN daily_calls integer;

-- How many calls a caller has made in a day of India: those it placed, its campaigns' dials, its transfers. Counted in the transaction
-- that makes the call, by all replicas. A release before does not count.
CREATE TABLE caller_days (
    caller text NOT NULL,
    day date NOT NULL,
    calls bigint NOT NULL,
    PRIMARY KEY (caller, day)
) WITH (fillfactor = 50);
