SET LOCAL lock_timeout = '5s';

DROP INDEX webhook_inbox_call;
DROP INDEX call_commands_call;
