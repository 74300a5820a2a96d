'use strict';

const { OfficialAccount } = require('node-easywechat');

const { serve, settings } = require('./lines.js');

const app = new OfficialAccount({
  app_id: settings.appid,
  secret: settings.secret,
  use_stable_access_token: settings.stable,
  http: { baseURL: `${settings.calls}/` },
  file_cache: { path: settings.directory },
});

serve({
  token: () => app.getAccessToken().getToken(),
  call: async () => (await app.getClient().get('cgi-bin/menu/get')).toObject(),
  ticket: () => app.getTicket().getTicket(),
});
