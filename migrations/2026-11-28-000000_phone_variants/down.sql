SET LOCAL lock_timeout = '5s';

ALTER TABLE phones DROP COLUMN variants;
