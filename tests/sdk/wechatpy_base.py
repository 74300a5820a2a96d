"""wechatpy with another base URL."""

from wechatpy import WeChatClient

import lines

settings = lines.settings


class Client(WeChatClient):
    API_BASE_URL = settings["calls"] + "/cgi-bin/"

    def fetch_access_token(self):
        return self._fetch_access_token(
            url=settings["tokens"] + "/cgi-bin/token",
            params={"grant_type": "client_credential", "appid": self.appid, "secret": self.secret},
        )


client = Client(settings["appid"], settings["secret"])
lines.serve({
    "token": lambda: client.access_token,
    "call": client.menu.get,
    "ticket": client.jsapi.get_jsapi_ticket,
})
