SET LOCAL lock_timeout = '5s';

-- How the phone's account behaves, as the last diagnosis with a call saw it; null before.
ALTER TABLE phones ADD COLUMN variants jsonb;
