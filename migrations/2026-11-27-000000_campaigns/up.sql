SET LOCAL lock_timeout = '5s';

CREATE TABLE campaigns (
    id uuid PRIMARY KEY,
    -- Grows by one with each row of campaign_history.
    version bigint NOT NULL DEFAULT 1,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    state text NOT NULL DEFAULT 'draft' CHECK (state IN ('draft', 'running', 'paused', 'finished', 'aborted')),
    state_reason text NOT NULL DEFAULT '',
    -- Who made it, with which key: a repeat is the same campaign.
    caller text NOT NULL,
    idempotency_key text NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 128),
    fingerprint bytea NOT NULL,
    account_id uuid NOT NULL REFERENCES accounts (id),
    agent_id uuid NOT NULL REFERENCES agents (id),
    rules jsonb NOT NULL,
    -- Out of the rules, for the claim.
    max_concurrent_calls integer NOT NULL CHECK (max_concurrent_calls >= 0),
    calls_per_minute integer NOT NULL CHECK (calls_per_minute >= 0),
    priority integer NOT NULL,
    ring_timeout_seconds integer NOT NULL,
    time_limit_seconds integer NOT NULL,
    record boolean NOT NULL,
    metadata jsonb NOT NULL,
    hook_endpoint text,
    -- The version that last changed what calls are made of: queued calls of earlier ones are made anew.
    calls_since bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    -- Since it was started or resumed.
    running_since timestamptz,
    ended_at timestamptz
);
CREATE UNIQUE INDEX campaigns_idempotency ON campaigns (caller, idempotency_key);
CREATE INDEX campaigns_running ON campaigns (account_id) WHERE state = 'running';

-- The caller-id pool. A phone that a campaign calls from cannot be deleted.
CREATE TABLE campaign_phones (
    campaign_id uuid NOT NULL REFERENCES campaigns (id),
    place integer NOT NULL,
    phone_id uuid NOT NULL REFERENCES phones (id),
    PRIMARY KEY (campaign_id, place)
);
CREATE INDEX campaign_phones_phone ON campaign_phones (phone_id);

-- Who did what to a campaign. Only ever appended to.
CREATE TABLE campaign_history (
    campaign_id uuid NOT NULL REFERENCES campaigns (id),
    version bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    type text NOT NULL,
    by text NOT NULL,
    data jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (campaign_id, version)
);

-- The pace of a campaign's dials, by the database's clock: the next one is due then. Written under the campaign's lock.
CREATE TABLE campaign_paces (
    campaign_id uuid PRIMARY KEY REFERENCES campaigns (id),
    next_at timestamptz NOT NULL DEFAULT 'epoch'
) WITH (fillfactor = 50);

-- Which time zones a campaign's contacts have; the empty one is that of the rules. Due contacts are found zone by zone, so that
-- those whose window is closed are never looked at.
CREATE TABLE campaign_zones (
    campaign_id uuid NOT NULL REFERENCES campaigns (id),
    zone text NOT NULL,
    PRIMARY KEY (campaign_id, zone)
);

-- No foreign key to campaigns: it would be checked for each of a million rows, and campaigns are never deleted.
CREATE TABLE contacts (
    campaign_id uuid NOT NULL,
    id uuid NOT NULL,
    -- E.164.
    number text NOT NULL,
    zone text NOT NULL DEFAULT '',
    variables jsonb NOT NULL DEFAULT '{}',
    state text NOT NULL DEFAULT 'pending' CHECK (
        state IN ('pending', 'calling', 'reached', 'exhausted', 'refused', 'unreachable', 'canceled', 'suppressed')
    ),
    -- A word for the last outcome, or for why there is no call.
    reason text,
    -- Rows of calls that were made for it, dialled or not.
    calls integer NOT NULL DEFAULT 0,
    -- Those that were dialled.
    attempts integer NOT NULL DEFAULT 0,
    -- Those that came out, by outcome.
    tries jsonb,
    -- Not called before; all other rules are checked when a call is claimed.
    next_at timestamptz NOT NULL DEFAULT 'epoch',
    -- The latest call.
    call_id uuid,
    -- The import of a file with a hash that it came with: held until the hash was compared, see next_at.
    import_id uuid,
    PRIMARY KEY (campaign_id, id),
    UNIQUE (campaign_id, number)
);
CREATE INDEX contacts_due ON contacts (campaign_id, zone, next_at, id) WHERE state = 'pending';
CREATE INDEX contacts_calling ON contacts (call_id) WHERE state = 'calling';

-- An import of contacts, and how far it is: a row of it and the contacts of its rows are one commit.
CREATE TABLE campaign_imports (
    campaign_id uuid NOT NULL REFERENCES campaigns (id),
    key text NOT NULL CHECK (length(key) BETWEEN 1 AND 128),
    -- Of contacts that are held.
    id uuid NOT NULL,
    caller text NOT NULL,
    -- What is sent under the key: the file's hash, if it was told, whether contacts that are there are replaced, and the names of
    -- the file's columns, a line for each (none: a list), once they are known. Another file needs another key.
    sha256 bytea,
    replaces boolean NOT NULL,
    header text,
    -- The last line that was dealt with.
    line bigint NOT NULL DEFAULT 0,
    rows bigint NOT NULL DEFAULT 0,
    accepted bigint NOT NULL DEFAULT 0,
    duplicates bigint NOT NULL DEFAULT 0,
    rejected bigint NOT NULL DEFAULT 0,
    problems jsonb NOT NULL DEFAULT '[]',
    problems_cut boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    PRIMARY KEY (campaign_id, key)
);

-- Numbers that campaigns do not call: one campaign, or all of them. What people asked for and what Exotel refused are entries of
-- their own: neither is lost when the other one goes.
CREATE TABLE suppressions (
    id uuid PRIMARY KEY,
    number text NOT NULL,
    campaign_id uuid REFERENCES campaigns (id),
    source text NOT NULL CHECK (source IN ('caller', 'exotel')),
    reason text NOT NULL,
    by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz
);
CREATE UNIQUE INDEX suppressions_of_all ON suppressions (number, source) WHERE campaign_id IS NULL;
CREATE UNIQUE INDEX suppressions_of_campaign ON suppressions (campaign_id, number, source) WHERE campaign_id IS NOT NULL;

-- Who put which number on a list, and who took it off. Only ever appended to.
CREATE TABLE suppression_history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    type text NOT NULL CHECK (type IN ('added', 'removed')),
    by text NOT NULL,
    number text NOT NULL,
    campaign_id uuid,
    reason text NOT NULL,
    expires_at timestamptz
);
CREATE INDEX suppression_history_number ON suppression_history (number);

-- What a change adds to a campaign's counts, written with the change. Folded into campaign_counts by and by.
CREATE TABLE campaign_deltas (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    campaign_id uuid NOT NULL,
    -- contact.<state>, attempt.<outcome> or dial.
    word text NOT NULL,
    n bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX campaign_deltas_campaign ON campaign_deltas (campaign_id);
CREATE TABLE campaign_counts (
    campaign_id uuid NOT NULL,
    -- Five seconds, or the epoch for all time.
    bucket timestamptz NOT NULL,
    word text NOT NULL,
    n bigint NOT NULL,
    PRIMARY KEY (campaign_id, bucket, word)
);
CREATE INDEX campaign_counts_bucket ON campaign_counts (bucket);

ALTER TABLE calls
    ADD COLUMN campaign_id uuid,
    ADD COLUMN contact_id uuid,
    -- The campaign's, when the call was made.
    ADD COLUMN campaign_version bigint,
    -- When the campaign's hook said yes.
    ADD COLUMN hook_at timestamptz;
ALTER TABLE calls ADD CONSTRAINT calls_campaign_id_fkey FOREIGN KEY (campaign_id) REFERENCES campaigns (id) NOT VALID;
