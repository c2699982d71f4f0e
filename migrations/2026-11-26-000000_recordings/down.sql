SET LOCAL lock_timeout = '5s';

DROP INDEX media_sessions_erasing;
ALTER TABLE media_sessions
    DROP COLUMN recording_state,
    DROP COLUMN recording_reason,
    DROP COLUMN recording_key,
    DROP COLUMN recording_sha256,
    DROP COLUMN recording_bytes,
    DROP COLUMN recording_ms,
    DROP COLUMN recording_missing_ms;
ALTER TABLE phones DROP COLUMN record_audio;
