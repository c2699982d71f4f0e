DROP INDEX calls_contact_completed;
