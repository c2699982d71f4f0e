SET LOCAL lock_timeout = '5s';

-- Who changed what, and to whom what was shown. Only ever appended to.
CREATE TABLE audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The caller's name, and the key of the database that it showed, if it was one.
    principal text NOT NULL,
    key_id uuid,
    -- Service/Method.
    method text NOT NULL,
    -- What it was about: the id of a call, an account and so on, or number_hash() of a number. Empty: a list of all.
    subject text NOT NULL,
    trace_id text,
    outcome text NOT NULL CHECK (outcome IN ('changed', 'shown', 'refused')),
    -- Counts and words; no numbers, no secrets.
    data jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_subject ON audit (subject, id);
CREATE INDEX audit_principal ON audit (principal, id);
CREATE INDEX audit_at ON audit (at);

-- Whoever the program is taken over by cannot rewrite what it has done: rows are deleted by age alone, and never before a year.
CREATE FUNCTION audit_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.at < now() - interval '365 days' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the audit trail is only appended to; rows are deleted after a year at the earliest';
END
$$;
CREATE TRIGGER audit_rows_are_kept BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_is_kept();
CREATE TRIGGER audit_is_not_emptied BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_is_kept();
-- In a session that replays what another server did, too.
ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_rows_are_kept, ENABLE ALWAYS TRIGGER audit_is_not_emptied;

-- What number_hash() is keyed with: 244 random bits, never changed, or erased numbers would be forgotten by the lists of numbers that
-- are not called.
CREATE TABLE number_hash_key (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    key bytea NOT NULL
);
INSERT INTO number_hash_key (key) VALUES (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));

-- What stands for a number that was erased, and in the audit trail. With its owner's rights: who serves does not see the key.
CREATE FUNCTION number_hash(number text) RETURNS text LANGUAGE sql STABLE STRICT PARALLEL SAFE AS $$
    SELECT 'h_' || encode(sha256(k.key || convert_to(number, 'UTF8') || k.key), 'hex') FROM number_hash_key k
$$;

-- Numbers of which nothing is purged or erased until they are released.
CREATE TABLE number_holds (
    number text PRIMARY KEY,
    held_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason text NOT NULL
);

ALTER TABLE calls
    -- number_hash() of the customer, once the number was erased on request.
    ADD COLUMN customer_hash text,
    -- Neither retention nor an erasure touches the call while this is set.
    ADD COLUMN held_at timestamptz,
    ADD COLUMN hold_reason text;

-- What is only appended to is blanked, forgotten and hashed through functions with the rights of the tables' owner: whoever serves can
-- take words away as they are meant to go, and put none in their place.

-- Takes what was told out of the timelines of calls that an erasure has blanked.
CREATE FUNCTION call_events_untell(ids uuid[]) RETURNS bigint LANGUAGE sql AS $$
    WITH untold AS (
        UPDATE call_events e SET data = '{}' FROM calls c
        WHERE c.id = ANY(ids) AND c.customer_hash IS NOT NULL AND c.blanked_at IS NOT NULL
            AND e.call_id = c.id AND e.data <> '{}' RETURNING 1
    ) SELECT count(*) FROM untold
$$;

-- Puts a number's hash in its place.
CREATE FUNCTION suppression_history_hash(number text) RETURNS bigint LANGUAGE sql AS $$
    WITH hashed AS (
        UPDATE suppression_history h SET number = number_hash($1), reason = regexp_replace(h.reason, '[[:digit:]]', '#', 'g')
        WHERE h.number = $1 RETURNING 1
    ) SELECT count(*) FROM hashed
$$;

-- Deletes entries of the trail that are older than this, and than a year.
CREATE FUNCTION audit_forget(kept interval, at_most bigint) RETURNS bigint LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM audit WHERE id IN (
            SELECT id FROM audit WHERE at < least(now() - kept, now() - interval '365 days')
            ORDER BY at LIMIT at_most FOR UPDATE SKIP LOCKED
        ) RETURNING 1
    ) SELECT count(*) FROM gone
$$;

DO $$
DECLARE
    function text;
BEGIN
    FOREACH function IN ARRAY ARRAY[
        'number_hash(text)', 'call_events_untell(uuid[])', 'suppression_history_hash(text)', 'audit_forget(interval, bigint)'
    ] LOOP
        EXECUTE format('ALTER FUNCTION %s SECURITY DEFINER SET search_path = %I, pg_temp', function, current_schema());
        -- grants.sql names who may.
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', function);
    END LOOP;
END
$$;
