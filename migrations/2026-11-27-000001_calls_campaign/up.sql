CREATE INDEX CONCURRENTLY IF NOT EXISTS calls_campaign ON calls (campaign_id, id) WHERE campaign_id IS NOT NULL;
