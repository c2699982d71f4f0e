CREATE INDEX CONCURRENTLY IF NOT EXISTS calls_campaign_active ON calls (campaign_id)
    WHERE campaign_id IS NOT NULL AND state IN ('dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress');
