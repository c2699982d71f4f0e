DROP INDEX calls_active_agent;
