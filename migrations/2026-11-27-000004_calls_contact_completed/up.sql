-- Contacts that were reached, in a call whose end was perhaps learned late.
CREATE INDEX CONCURRENTLY IF NOT EXISTS calls_contact_completed ON calls (contact_id)
    WHERE contact_id IS NOT NULL AND state = 'completed';
