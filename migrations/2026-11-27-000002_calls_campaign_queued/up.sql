CREATE INDEX CONCURRENTLY IF NOT EXISTS calls_campaign_queued ON calls (campaign_id, due_at)
    WHERE campaign_id IS NOT NULL AND state = 'queued';
