-- What retention finds by its age.
CREATE INDEX CONCURRENTLY IF NOT EXISTS media_sessions_recorded ON media_sessions (ended_at)
    WHERE recording_state IN ('pending', 'uploading', 'stored', 'incomplete') OR recording_url IS NOT NULL;
