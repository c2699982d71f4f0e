SET LOCAL lock_timeout = '5s';

-- Whether the edge records both sides of each audio session.
ALTER TABLE phones ADD COLUMN record_audio boolean NOT NULL DEFAULT false;

-- Our own recording of a session; NULL where it is not recorded. recording_url is Exotel's.
ALTER TABLE media_sessions
    -- erasing: too old, and still to be taken out of the object store.
    ADD COLUMN recording_state text CHECK (
        recording_state IN ('pending', 'uploading', 'stored', 'incomplete', 'failed', 'erasing', 'erased')
    ),
    ADD COLUMN recording_reason text,
    ADD COLUMN recording_key text,
    ADD COLUMN recording_sha256 bytea CHECK (length(recording_sha256) = 32),
    ADD COLUMN recording_bytes bigint,
    ADD COLUMN recording_ms bigint,
    ADD COLUMN recording_missing_ms bigint;
CREATE INDEX media_sessions_erasing ON media_sessions (id) WHERE recording_state = 'erasing';
