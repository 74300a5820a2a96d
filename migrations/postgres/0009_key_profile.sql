-- What the SDK that shows a key is like, and which of WeChat's paths it may call. Lists of paths are separated by spaces.
ALTER TABLE wx_key ADD COLUMN sdk TEXT;
ALTER TABLE wx_key ADD COLUMN allowed_paths TEXT;
ALTER TABLE wx_key ADD COLUMN denied_paths TEXT;
