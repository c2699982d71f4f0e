-- What each role may do, table by table. `call-service migrate` runs it after the migrations, where the roles are there (roles.sql) and
-- it has the rights of the tables' owner; it may be run again. A table that is not named here is nobody's but the owner's.
DO $$
DECLARE
    given record;
    object text;
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_class WHERE oid = to_regclass('calls') AND pg_has_role(relowner, 'USAGE')
    ) THEN
        RETURN;
    END IF;
    FOR given IN
        SELECT * FROM (VALUES
            -- What is never deleted: calls keep their rows and keys for ever, revoked keys tell who revoked them.
            ('callsvc_app', 'SELECT, INSERT, UPDATE', ARRAY[
                'accounts', 'agents', 'phones', 'rates', 'calls', 'media_sessions', 'api_keys', 'campaigns', 'campaign_paces',
                'campaign_imports'
            ]),
            ('callsvc_app', 'SELECT, INSERT, UPDATE, DELETE', ARRAY[
                'credentials', 'call_commands', 'webhook_inbox', 'transcripts', 'campaign_phones', 'contacts', 'suppressions',
                'campaign_deltas', 'campaign_counts', 'caller_days', 'number_holds'
            ]),
            -- What is only ever appended to.
            ('callsvc_app', 'SELECT, INSERT', ARRAY[
                'call_events', 'campaign_history', 'suppression_history', 'agent_versions', 'greetings', 'crypto_canary',
                'campaign_zones'
            ]),
            ('callsvc_app', 'SELECT', ARRAY['__diesel_schema_migrations']),
            -- When it was noted is the database's word, and no role may change what was.
            (
                'callsvc_app', 'SELECT, INSERT (principal, key_id, method, subject, trace_id, outcome, data)', ARRAY['audit']
            ),

            -- Retention, run as a role of its own: it makes nothing, and sees no credentials and no keys.
            ('callsvc_purge', 'SELECT, UPDATE', ARRAY['calls', 'media_sessions']),
            ('callsvc_purge', 'SELECT, UPDATE, DELETE', ARRAY['webhook_inbox', 'transcripts']),
            ('callsvc_purge', 'SELECT, DELETE', ARRAY['call_commands', 'contacts']),
            ('callsvc_purge', 'SELECT', ARRAY['campaigns', 'number_holds', '__diesel_schema_migrations']),
            ('callsvc_purge', 'INSERT', ARRAY['campaign_deltas']),

            -- Numbers are masked, and nothing that was said is there.
            ('callsvc_report', 'SELECT', ARRAY['report_calls', 'report_contacts', 'report_campaigns', 'campaign_counts'])
        ) AS rights (role, verbs, tables)
        WHERE EXISTS (SELECT FROM pg_roles WHERE rolname = role)
    LOOP
        FOREACH object IN ARRAY given.tables LOOP
            EXECUTE format('REVOKE ALL ON %I FROM %I', object, given.role);
            EXECUTE format('GRANT %s ON %I TO %I', given.verbs, object, given.role);
        END LOOP;
    END LOOP;
    FOR given IN
        SELECT * FROM (VALUES
            ('callsvc_app', 'USAGE ON SEQUENCE call_events_id'),
            ('callsvc_app', 'EXECUTE ON FUNCTION call_events_partitions(integer)'),
            ('callsvc_app', 'EXECUTE ON FUNCTION call_events_drop(text)'),
            ('callsvc_app', 'EXECUTE ON FUNCTION call_events_forget_late(interval, bigint)'),
            ('callsvc_app', 'EXECUTE ON FUNCTION number_hash(text)'),
            ('callsvc_app', 'EXECUTE ON FUNCTION call_events_untell(uuid[])'),
            ('callsvc_app', 'EXECUTE ON FUNCTION suppression_history_hash(text)'),
            ('callsvc_app', 'EXECUTE ON FUNCTION audit_forget(interval, bigint)'),
            ('callsvc_purge', 'EXECUTE ON FUNCTION audit_forget(interval, bigint)'),
            ('callsvc_purge', 'EXECUTE ON FUNCTION call_events_drop(text)'),
            ('callsvc_purge', 'EXECUTE ON FUNCTION call_events_forget_late(interval, bigint)')
        ) AS rights (role, what)
        WHERE EXISTS (SELECT FROM pg_roles WHERE rolname = role)
    LOOP
        EXECUTE format('GRANT %s TO %I', given.what, given.role);
    END LOOP;
END
$$;
