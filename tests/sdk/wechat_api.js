'use strict';

const { promisify } = require('node:util');

const WechatAPI = require('wechat-api');

const { serve, settings } = require('./lines.js');

const api = new WechatAPI(settings.appid, settings.secret);
api.endpoint = settings.calls;

const answer = (method) => promisify(api[method].bind(api))();

serve({
  token: async () => (await answer('getLatestToken')).accessToken,
  call: () => answer('getMenu'),
  ticket: async () => (await answer('getTicket')).ticket,
});
