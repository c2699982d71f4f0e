DROP VIEW report_campaigns;
DROP VIEW report_contacts;
DROP VIEW report_calls;
DROP FUNCTION masked_number(text);
DROP FUNCTION call_events_forget_late(interval, bigint);
DROP FUNCTION call_events_drop(text);
GRANT EXECUTE ON FUNCTION call_events_partitions(integer) TO PUBLIC;
ALTER FUNCTION call_events_partitions(integer) SECURITY INVOKER RESET search_path;
