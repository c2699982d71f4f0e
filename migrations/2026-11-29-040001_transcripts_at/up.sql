-- What retention finds by its age.
CREATE INDEX CONCURRENTLY IF NOT EXISTS transcripts_at ON transcripts (at);
