DROP INDEX calls_campaign_queued;
