DROP INDEX transcripts_at;
