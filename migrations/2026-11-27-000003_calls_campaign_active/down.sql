DROP INDEX calls_campaign_active;
