-- What retention finds by its age.
CREATE INDEX CONCURRENTLY IF NOT EXISTS calls_recorded ON calls (ended_at)
    WHERE ended_at IS NOT NULL AND recording_url IS NOT NULL;
