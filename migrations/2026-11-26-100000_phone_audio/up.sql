SET LOCAL lock_timeout = '5s';

-- How the audio of the phone's calls is sent and read; null is the default.
ALTER TABLE phones ADD COLUMN audio jsonb;
