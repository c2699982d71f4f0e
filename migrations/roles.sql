-- The roles of callbridge in this database. Run by a superuser, or by a role that has CREATEROLE, owns what is in the schema public and
-- may give it away: `call-service roles | psql "$ADMIN_URL"`. It may be run again. Rights on tables are given by `call-service migrate`,
-- run as callsvc_migrate (grants.sql). The roles have no passwords yet: set them with \password, or let certificates do.
BEGIN;
SET LOCAL lock_timeout = '5s';
DO $$
DECLARE
    name text;
    object record;
BEGIN
    FOREACH name IN ARRAY ARRAY['callsvc_migrate', 'callsvc_app', 'callsvc_report', 'callsvc_purge'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', name);
        END IF;
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), name);
        EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', name);
    END LOOP;

    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    -- Imports of contacts go through a temporary table.
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO callsvc_app', current_database());
    REVOKE CREATE ON SCHEMA public FROM PUBLIC;
    GRANT CREATE ON SCHEMA public TO callsvc_migrate;

    -- Whoever owned it until now goes on with what it does, as a member, until that is revoked.
    FOR object IN
        SELECT DISTINCT format('GRANT callsvc_migrate TO %I', r.rolname) AS statement
        FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
        WHERE c.relnamespace = 'public'::regnamespace AND r.rolname <> 'callsvc_migrate' AND NOT r.rolsuper
    LOOP
        EXECUTE object.statement;
    END LOOP;
    -- Nobody but callsvc_migrate changes what there is, whoever made it.
    FOR object IN
        SELECT format('ALTER %s %s OWNER TO callsvc_migrate',
            CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass) AS statement
        FROM pg_class c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
            AND c.relowner <> 'callsvc_migrate'::regrole
            -- The sequence of a column goes with its table.
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('a', 'i') AND c.relkind = 'S')
        UNION ALL
        SELECT format('ALTER FUNCTION %s OWNER TO callsvc_migrate', p.oid::regprocedure)
        FROM pg_proc p
        WHERE p.pronamespace = 'public'::regnamespace AND p.prokind = 'f' AND p.proowner <> 'callsvc_migrate'::regrole
        UNION ALL
        SELECT format('ALTER TYPE %s OWNER TO callsvc_migrate', t.oid::regtype)
        FROM pg_type t
        WHERE t.typnamespace = 'public'::regnamespace AND t.typtype = 'e' AND t.typowner <> 'callsvc_migrate'::regrole
    LOOP
        EXECUTE object.statement;
    END LOOP;

    -- What bounds a session that sets no limits of its own, such as one behind a pooler.
    FOR object IN
        SELECT format('ALTER ROLE %I IN DATABASE %I SET %s = %L', role, current_database(), setting, value) AS statement
        FROM (VALUES
            ('callsvc_app', 'statement_timeout', '5s'),
            ('callsvc_app', 'lock_timeout', '1s'),
            ('callsvc_app', 'idle_in_transaction_session_timeout', '10s'),
            ('callsvc_purge', 'statement_timeout', '5min'),
            ('callsvc_purge', 'lock_timeout', '1s'),
            ('callsvc_purge', 'idle_in_transaction_session_timeout', '10s'),
            ('callsvc_report', 'statement_timeout', '1min'),
            ('callsvc_report', 'lock_timeout', '1s'),
            ('callsvc_report', 'idle_in_transaction_session_timeout', '1min'),
            ('callsvc_report', 'default_transaction_read_only', 'on')
        ) AS limits (role, setting, value)
    LOOP
        EXECUTE object.statement;
    END LOOP;
END
$$;
COMMIT;
