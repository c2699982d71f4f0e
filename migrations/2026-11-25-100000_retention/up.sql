SET LOCAL lock_timeout = '5s';

-- What retention finds by its call.
CREATE INDEX webhook_inbox_call ON webhook_inbox (call_id);
CREATE INDEX call_commands_call ON call_commands (call_id);
