-- What the SDK that shows a key is like, and which of WeChat's paths it may call. Lists of paths are separated by spaces.
ALTER TABLE wx_key
    ADD COLUMN sdk VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin,
    ADD COLUMN allowed_paths TEXT CHARACTER SET ascii COLLATE ascii_bin,
    ADD COLUMN denied_paths TEXT CHARACTER SET ascii COLLATE ascii_bin;
