"""wechatpy as it is, with its tokens in Redis or Memcached. What it takes for its AppSecret opens nothing: it must find all in the store."""

import pymemcache
import redis
from wechatpy import WeChatClient
from wechatpy.session.memcachedstorage import MemcachedStorage
from wechatpy.session.redisstorage import RedisStorage

import lines

settings = lines.settings
address, port = "127.0.0.1", settings["port"]
if settings["store"] == "redis":
    session = RedisStorage(redis.Redis(address, port))
else:
    session = MemcachedStorage(pymemcache.Client((address, port)))

client = WeChatClient(settings["appid"], "opens nothing", session=session)
client.API_BASE_URL = settings["calls"] + "/cgi-bin/"
lines.serve({
    "token": lambda: client.access_token,
    "call": client.menu.get,
    "ticket": client.jsapi.get_jsapi_ticket,
})
