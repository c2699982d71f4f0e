SET LOCAL lock_timeout = '5s';

-- A role that may read and write rows makes and drops the months of call_events through functions with the rights of their owner, who
-- migrates. Each sees for itself whether it may be done.

-- The schema of the tables alone: nobody can put others in front of them.
DO $$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION call_events_partitions(integer) SECURITY DEFINER SET search_path = %I, pg_temp', current_schema()
    );
END
$$;

-- Drops a month of timelines that is over and whose calls are all blanked. False: there is none of that name. It reads the month's
-- calls until one is not blanked, and then waits for the timelines' lock.
CREATE FUNCTION call_events_drop(month text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    begins timestamptz;
    ends timestamptz;
BEGIN
    IF month !~ '^call_events_[0-9]{4}_[0-9]{2}$' OR NOT EXISTS (
        SELECT FROM pg_inherits WHERE inhparent = 'call_events'::regclass AND inhrelid = to_regclass(month)
    ) THEN
        RETURN false;
    END IF;
    begins := to_date(right(month, 7), 'YYYY_MM')::timestamp AT TIME ZONE 'UTC';
    ends := (to_date(right(month, 7), 'YYYY_MM')::timestamp + interval '1 month') AT TIME ZONE 'UTC';
    IF ends > now() OR EXISTS (
        SELECT FROM calls WHERE id >= uuid_v7_floor(begins) AND id < uuid_v7_floor(ends) AND blanked_at IS NULL
    ) THEN
        RAISE EXCEPTION '% is not over, or has calls that are kept', month USING ERRCODE = 'check_violation';
    END IF;
    EXECUTE format('DROP TABLE %I', month);
    RETURN true;
END
$$;

-- Deletes what came late, after its month was dropped, of calls that are blanked for as long.
CREATE FUNCTION call_events_forget_late(kept interval, at_most bigint) RETURNS bigint
LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM call_events_default d USING (
            SELECT e.call_id, e.version FROM call_events_default e JOIN calls c ON c.id = e.call_id
            WHERE e.at < now() - kept AND c.blanked_at < now() - kept LIMIT at_most
        ) old WHERE d.call_id = old.call_id AND d.version = old.version RETURNING 1
    ) SELECT count(*) FROM gone
$$;

DO $$
DECLARE
    function text;
BEGIN
    FOREACH function IN ARRAY ARRAY['call_events_drop(text)', 'call_events_forget_late(interval, bigint)'] LOOP
        EXECUTE format('ALTER FUNCTION %s SECURITY DEFINER SET search_path = %I, pg_temp', function, current_schema());
    END LOOP;
END
$$;
-- grants.sql names who may.
REVOKE EXECUTE ON FUNCTION call_events_partitions(integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION call_events_drop(text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION call_events_forget_late(interval, bigint) FROM PUBLIC;

-- For reports: who was called is masked, as in logs, and nothing that was said or came with a call is there.
CREATE FUNCTION masked_number(number text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT CASE
        WHEN number = '' THEN ''
        WHEN number ~ '^\+91[0-9]{8,13}$' THEN '+91******' || right(number, 4)
        WHEN number ~ '^\+[0-9]{8,15}$' THEN '+******' || right(number, 4)
        ELSE '******'
    END
$$;

CREATE VIEW report_calls AS
SELECT id, direction, state, attempt, account_id, phone_id, agent_id, agent_version, campaign_id, contact_id,
    masked_number(customer) AS customer, masked_number(exophone) AS exophone, caller, dial_mode, record, priority, not_before,
    expire_at, waiting_reason, end_requested, end_reason, ended_by, provider_code, end_presumed, needs_review, queued_at,
    post_started_at, answered_at, ended_at, ring_seconds, talk_seconds, price, blanked_at
FROM calls;

CREATE VIEW report_contacts AS
SELECT campaign_id, id, masked_number(number) AS number, zone, state, reason, calls, attempts, next_at, call_id FROM contacts;

CREATE VIEW report_campaigns AS
SELECT id, version, name, state, state_reason, caller, account_id, agent_id, max_concurrent_calls, calls_per_minute, priority,
    created_at, started_at, running_since, ended_at
FROM campaigns;
