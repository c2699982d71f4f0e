SET LOCAL lock_timeout = '5s';

CREATE TYPE call_direction AS ENUM ('outbound', 'inbound');
CREATE TYPE dial_mode AS ENUM ('flow', 'stream');
-- In the order of a call's life.
CREATE TYPE call_state AS ENUM (
    'queued', 'dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress',
    'completed', 'no_answer', 'busy', 'failed', 'canceled'
);

CREATE TABLE accounts (
    id uuid PRIMARY KEY,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    sid text NOT NULL UNIQUE CHECK (sid ~ '^[A-Za-z0-9_-]{1,64}$'),
    subdomain text NOT NULL,
    calls_per_minute integer NOT NULL CHECK (calls_per_minute BETWEEN 1 AND 6000),
    max_concurrent_calls integer NOT NULL CHECK (max_concurrent_calls >= 0),
    inbound_reserve integer NOT NULL CHECK (inbound_reserve >= 0),
    hours_off boolean NOT NULL,
    hours_start_minute integer NOT NULL CHECK (hours_start_minute BETWEEN 0 AND 1439),
    hours_end_minute integer NOT NULL CHECK (hours_end_minute BETWEEN 1 AND 1440),
    hours_time_zone text NOT NULL,
    app_id text,
    -- The account that EXOTEL_* settings describe. Its secrets stay in the environment.
    from_environment boolean NOT NULL DEFAULT false,
    -- Webhook tokens of this generation and the one before are taken.
    token_generation integer NOT NULL DEFAULT 1 CHECK (token_generation BETWEEN 1 AND 65535),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK (hours_start_minute < hours_end_minute)
);
CREATE UNIQUE INDEX accounts_one_from_environment ON accounts (from_environment) WHERE from_environment;

CREATE TABLE greetings (
    sha256 bytea PRIMARY KEY CHECK (length(sha256) = 32),
    wav bytea NOT NULL CHECK (length(wav) <= 2097152),
    sample_rate integer NOT NULL,
    duration_ms integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE agents (
    id uuid PRIMARY KEY,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    -- The current row of agent_versions.
    version integer NOT NULL,
    max_concurrent_calls integer NOT NULL CHECK (max_concurrent_calls >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- What a call needs of its agent; a call keeps the version it began with.
CREATE TABLE agent_versions (
    agent_id uuid NOT NULL REFERENCES agents (id),
    version integer NOT NULL,
    endpoints jsonb NOT NULL,
    greeting_text text,
    greeting_sha256 bytea REFERENCES greetings (sha256),
    sample_rate integer NOT NULL CHECK (sample_rate IN (8000, 16000, 24000)),
    config text NOT NULL CHECK (length(config) <= 16384),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (agent_id, version)
);

CREATE TABLE phones (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts (id),
    -- E.164.
    number text NOT NULL UNIQUE CHECK (number ~ '^\+[0-9]{6,15}$'),
    label text NOT NULL DEFAULT '' CHECK (length(label) <= 100),
    dial_mode dial_mode NOT NULL,
    app_id text,
    agent_id uuid REFERENCES agents (id),
    max_concurrent_calls integer NOT NULL CHECK (max_concurrent_calls >= 0),
    gather jsonb,
    transfer_numbers jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX phones_account ON phones (account_id);
CREATE INDEX phones_agent ON phones (agent_id);

-- Sealed API key and token of an account or a phone. A change replaces the blob and counts row_version up; the blob is bound
-- to both, so that an older one cannot be put back.
CREATE TABLE credentials (
    id uuid PRIMARY KEY,
    account_id uuid UNIQUE REFERENCES accounts (id) ON DELETE CASCADE,
    phone_id uuid UNIQUE REFERENCES phones (id) ON DELETE CASCADE,
    row_version bigint NOT NULL,
    kek_id integer NOT NULL,
    sealed bytea NOT NULL CHECK (length(sealed) <= 4096),
    -- A phone's credentials can be of another cluster than the account's.
    subdomain text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK (num_nonnulls(account_id, phone_id) = 1)
);
CREATE INDEX credentials_kek ON credentials (kek_id);

-- A known text sealed with each key-encryption key: a wrong key is noticed at start.
CREATE TABLE crypto_canary (
    kek_id integer PRIMARY KEY,
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE calls (
    id uuid PRIMARY KEY,
    -- Grows by one with each row of call_events.
    version bigint NOT NULL,
    direction call_direction NOT NULL,
    -- Computed from the facts below by the one function that decides.
    state call_state NOT NULL,
    attempt integer NOT NULL DEFAULT 0,

    account_id uuid NOT NULL REFERENCES accounts (id),
    phone_id uuid REFERENCES phones (id),
    agent_id uuid,
    agent_version integer,
    -- E.164, or as it came where it could not be read; blanked by retention.
    customer text NOT NULL,
    exophone text NOT NULL,

    -- Who asked (the API key's name), with which key, for what: a repeat is the same call for ever.
    caller text,
    idempotency_key text CHECK (length(idempotency_key) BETWEEN 1 AND 128),
    fingerprint bytea,

    -- Exotel's id, immutable once known.
    call_sid text,
    dial_mode dial_mode,
    ring_timeout_seconds integer NOT NULL DEFAULT 30,
    time_limit_seconds integer NOT NULL DEFAULT 1800,
    record boolean NOT NULL DEFAULT false,
    priority integer NOT NULL DEFAULT 0,
    calling_hours_override text,
    when_number_busy smallint NOT NULL DEFAULT 1,
    metadata jsonb NOT NULL DEFAULT '{}',
    not_before timestamptz NOT NULL,
    expire_at timestamptz NOT NULL,
    -- When the dispatcher looks at a queued call next, and why it waits.
    due_at timestamptz NOT NULL,
    waiting_reason text,
    waiting_for uuid,

    -- What is known, merged: the best word of each source, whether media was seen and so on.
    facts jsonb NOT NULL,
    end_requested boolean NOT NULL DEFAULT false,

    end_reason text,
    ended_by text,
    provider_code text,
    end_presumed boolean NOT NULL DEFAULT false,
    needs_review boolean NOT NULL DEFAULT false,

    queued_at timestamptz NOT NULL DEFAULT now(),
    post_started_at timestamptz,
    answered_at timestamptz,
    ended_at timestamptz,
    ring_seconds integer,
    talk_seconds integer,
    price text,
    recording_url text,
    -- Whom the flow's Connect applet dials next, and which way the Passthru after Voicebot goes.
    transfer_to text,
    branch_b boolean NOT NULL DEFAULT false,

    -- When Exotel is asked how the call stands, and how often it was asked.
    read_back_at timestamptz,
    read_backs integer NOT NULL DEFAULT 0,
    -- W3C trace context of the request that made the row.
    traceparent text,

    CHECK ((caller IS NULL) = (idempotency_key IS NULL)),
    CHECK ((direction = 'outbound') = (caller IS NOT NULL)),
    CHECK (state <> 'queued' OR direction = 'outbound'),
    CHECK (state NOT IN ('dialing', 'unconfirmed') OR (attempt > 0 AND post_started_at IS NOT NULL))
);
CREATE UNIQUE INDEX calls_idempotency ON calls (caller, idempotency_key);
CREATE UNIQUE INDEX calls_call_sid ON calls (account_id, call_sid);
CREATE INDEX calls_due ON calls (due_at) WHERE state = 'queued';
CREATE INDEX calls_dialing ON calls (post_started_at) WHERE state = 'dialing';
CREATE INDEX calls_read_back ON calls (read_back_at) WHERE read_back_at IS NOT NULL;
CREATE INDEX calls_numbers ON calls (exophone, customer, id);
CREATE INDEX calls_customer ON calls (customer, id);
CREATE INDEX calls_phone ON calls (phone_id, id);
CREATE INDEX calls_agent ON calls (agent_id, id);
CREATE INDEX calls_review ON calls (id) WHERE needs_review;

CREATE TABLE media_sessions (
    id uuid PRIMARY KEY,
    call_id uuid NOT NULL REFERENCES calls (id),
    -- The one-time token that opens it; absent for a static socket.
    nonce bigint,
    token_expires_at timestamptz,
    -- Counts WebSocket upgrades; the newest owns the session.
    claim bigint NOT NULL DEFAULT 0,
    edge_id uuid,
    stream_sid text UNIQUE,
    -- Live as far as is known until then; renewed by the replica that holds the edge's stream.
    attached_until timestamptz,
    -- The newest event of the edge that is committed.
    last_event bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    ended_at timestamptz,
    ended_by text,
    end_reason text,
    end_presumed boolean NOT NULL DEFAULT false,
    quality jsonb NOT NULL DEFAULT '{}',
    recording_url text
);
CREATE INDEX media_sessions_call ON media_sessions (call_id, created_at);
CREATE UNIQUE INDEX media_sessions_nonce ON media_sessions (call_id, nonce);
CREATE INDEX media_sessions_live ON media_sessions (edge_id) WHERE started_at IS NOT NULL AND ended_at IS NULL;

CREATE SEQUENCE call_events_id;
CREATE TABLE call_events (
    call_id uuid NOT NULL,
    version bigint NOT NULL,
    -- With tx the place in the order in which events became visible.
    id bigint NOT NULL DEFAULT nextval('call_events_id'),
    tx bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    type text NOT NULL,
    state call_state NOT NULL,
    source text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    data jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (call_id, version)
) PARTITION BY RANGE (call_id);
CREATE INDEX call_events_order ON call_events (tx, id);
CREATE TABLE call_events_default PARTITION OF call_events DEFAULT;

-- The smallest UUIDv7 of an instant.
CREATE FUNCTION uuid_v7_floor(instant timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT (lpad(to_hex((extract(epoch FROM instant) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Makes the partitions of this month and the next `ahead`, in UTC.
CREATE FUNCTION call_events_partitions(ahead integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    made integer := 0;
BEGIN
    FOR i IN 0..ahead LOOP
        IF to_regclass(format('call_events_%s', to_char(month, 'YYYY_MM'))) IS NULL THEN
            EXECUTE format(
                'CREATE TABLE call_events_%s PARTITION OF call_events FOR VALUES FROM (%L) TO (%L)',
                to_char(month, 'YYYY_MM'),
                uuid_v7_floor(month AT TIME ZONE 'UTC'),
                uuid_v7_floor((month + interval '1 month') AT TIME ZONE 'UTC')
            );
            made := made + 1;
        END IF;
        month := month + interval '1 month';
    END LOOP;
    RETURN made;
END
$$;
SELECT call_events_partitions(3);

CREATE TABLE call_commands (
    id uuid PRIMARY KEY,
    call_id uuid NOT NULL REFERENCES calls (id),
    media_session_id uuid NOT NULL REFERENCES media_sessions (id),
    -- The Command message of IngressService, encoded.
    command bytea NOT NULL CHECK (length(command) <= 65536),
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    done boolean
);
CREATE INDEX call_commands_open ON call_commands (media_session_id) WHERE finished_at IS NULL;

CREATE TABLE webhook_inbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    call_id uuid NOT NULL,
    content_type text,
    body bytea NOT NULL CHECK (length(body) <= 65536),
    received_at timestamptz NOT NULL,
    applied_at timestamptz,
    -- Why it could not be applied, for a person.
    problem text
);
CREATE INDEX webhook_inbox_waiting ON webhook_inbox (id) WHERE applied_at IS NULL;

CREATE TABLE transcripts (
    media_session_id uuid NOT NULL REFERENCES media_sessions (id),
    sequence bigint NOT NULL,
    call_id uuid NOT NULL REFERENCES calls (id),
    speaker smallint NOT NULL,
    text text NOT NULL CHECK (length(text) <= 8192),
    language text NOT NULL DEFAULT '',
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (media_session_id, sequence)
);
CREATE INDEX transcripts_call ON transcripts (call_id);
