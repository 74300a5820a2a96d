"""wechatpy as it is, with WeChat's host compiled in."""

from wechatpy import WeChatClient

import lines

settings = lines.settings
if "tls" in settings:
    lines.lead_host_to(*settings["tls"])

client = WeChatClient(settings["appid"], settings["secret"])
lines.serve({
    "token": lambda: client.access_token,
    "call": client.menu.get,
    "ticket": client.jsapi.get_jsapi_ticket,
})
