SET LOCAL lock_timeout = '5s';

-- Who may call, beside API_KEYS. Rows are never deleted: they tell who made and who revoked what.
CREATE TABLE api_keys (
    -- The kid in ck_<kid>_<secret>.
    id uuid PRIMARY KEY,
    -- Whom the key stands for. A name may have several, so that one can be replaced.
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    -- Of the whole key, whose secret are 32 random bytes: there is nothing to guess, so nothing slower than a hash is needed.
    sha256 bytea NOT NULL UNIQUE CHECK (length(sha256) = 32),
    -- As in API_KEYS, with + between.
    scopes text NOT NULL CHECK (length(scopes) > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    -- The key that it was made with; null where that was none of this table.
    created_with uuid REFERENCES api_keys (id),
    expires_at timestamptz,
    -- Written once in some minutes at most.
    last_used_at timestamptz,
    revoked_at timestamptz,
    revoked_by text,
    CHECK ((revoked_at IS NULL) = (revoked_by IS NULL))
);
-- What every replica reads again and again.
CREATE INDEX api_keys_live ON api_keys (id) WHERE revoked_at IS NULL;
