SET LOCAL lock_timeout = '5s';

-- With their constraints.
ALTER TABLE calls DROP COLUMN hook_at, DROP COLUMN campaign_version, DROP COLUMN contact_id, DROP COLUMN campaign_id;
DROP TABLE campaign_counts, campaign_deltas, suppression_history, suppressions, campaign_imports, contacts, campaign_zones, campaign_paces,
    campaign_history, campaign_phones, campaigns;
