SET LOCAL lock_timeout = '5s';

-- The pace of an account's requests at Exotel: one row for connects and one for reads. Whoever holds the row decides alone.
CREATE TABLE rates (
    account_id uuid NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('dial', 'read')),
    -- The theoretical arrival time of GCRA, by the database's clock: the next request is due then.
    next_at timestamptz NOT NULL DEFAULT 'epoch',
    PRIMARY KEY (account_id, kind)
) WITH (fillfactor = 50);
INSERT INTO rates (account_id, kind) SELECT id, kind FROM accounts, unnest(ARRAY['dial', 'read']) AS kind;

-- In the database, so that an account made by the release before has its rates too.
CREATE FUNCTION rates_of_account() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO rates (account_id, kind) VALUES (NEW.id, 'dial'), (NEW.id, 'read') ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER accounts_rates AFTER INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION rates_of_account();

-- A slot is a row in an active state: these count them, and find the call that a number is on.
CREATE INDEX calls_active ON calls (account_id, phone_id)
    WHERE state IN ('dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress');
CREATE INDEX calls_active_customer ON calls (customer)
    WHERE state IN ('dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress');
-- Single flight: of two dials to one number with an unknown outcome nobody could tell which one Exotel has.
CREATE UNIQUE INDEX calls_single_flight ON calls (account_id, phone_id, customer)
    WHERE state IN ('dialing', 'unconfirmed');

-- The order in which an account's queued calls are dialled, and which accounts have any that are due.
CREATE INDEX calls_queue ON calls (account_id, priority DESC, due_at, id) WHERE state = 'queued';
CREATE INDEX calls_queue_due ON calls (account_id, due_at) WHERE state = 'queued';
-- When a queued call is given up.
CREATE INDEX calls_expiry ON calls (expire_at) WHERE state = 'queued';
DROP INDEX calls_due;

CREATE INDEX webhook_inbox_received ON webhook_inbox (received_at);

-- Last, so that nobody is kept from reading while the indexes are made.
-- Learned from Exotel's answers: its times have no zone. Null until the first one.
ALTER TABLE accounts ADD COLUMN utc_offset_minutes integer CHECK (utc_offset_minutes BETWEEN -1440 AND 1440);
-- When Exotel's count of open streams was compared with ours.
ALTER TABLE accounts ADD COLUMN streams_checked_at timestamptz NOT NULL DEFAULT 'epoch';

-- How often Exotel's list was read without a trace of an unconfirmed dial.
ALTER TABLE calls ADD COLUMN settle_polls integer NOT NULL DEFAULT 0;
-- When retention blanked the personal columns; the row, its key and its fingerprint stay.
ALTER TABLE calls ADD COLUMN blanked_at timestamptz;
CREATE INDEX calls_retention ON calls (ended_at) WHERE ended_at IS NOT NULL AND blanked_at IS NULL;
