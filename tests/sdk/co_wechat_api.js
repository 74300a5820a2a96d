'use strict';

const WechatAPI = require('co-wechat-api');

const { serve, settings } = require('./lines.js');

// Both kinds of call have one prefix; where a test wants them at two places, it is another one while a token is asked for.
class Apart extends WechatAPI {
  getAccessToken() {
    this.prefix = `${settings.tokens}/cgi-bin/`;
    const asked = super.getAccessToken();
    this.prefix = `${settings.calls}/cgi-bin/`;
    return asked;
  }
}

const Api = settings.tokens === settings.calls ? WechatAPI : Apart;
const api = new Api(settings.appid, settings.secret);
api.prefix = `${settings.calls}/cgi-bin/`;

serve({
  token: async () => (await api.ensureAccessToken()).accessToken,
  call: () => api.getMenu(),
  ticket: async () => (await api.ensureTicket()).ticket,
});
