DROP INDEX media_sessions_recorded;
