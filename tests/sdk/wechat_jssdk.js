// It signs pages and calls nothing else, so its call is a signature and its token the one that it keeps for the ticket.
'use strict';

const path = require('node:path');

const { Wechat } = require('wechat-jssdk');

const { serve, settings } = require('./lines.js');

const { jssdk } = new Wechat({
  appId: settings.appid,
  appSecret: settings.secret,
  wechatRedirectUrl: 'http://shop.example/oauth',
  accessTokenUrl: `${settings.tokens}/cgi-bin/token`,
  ticketUrl: `${settings.calls}/cgi-bin/ticket/getticket`,
  apiUrl: settings.calls,
  storeOptions: { fileStorePath: path.join(settings.directory, 'store.json') },
});

serve({
  token: async () => (await jssdk.prepareGlobalToken()).accessToken,
  call: () => jssdk.getSignature('http://shop.example/page', true),
  ticket: async () => (await jssdk.prepareGlobalToken()).jsapi_ticket,
  renew: async () => (await jssdk.getGlobalTokenAndTicket(true)).accessToken,
});
