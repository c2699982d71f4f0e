-- An agent's slots, whichever accounts its calls are of.
CREATE INDEX CONCURRENTLY IF NOT EXISTS calls_active_agent ON calls (agent_id)
    WHERE state IN ('dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress');
