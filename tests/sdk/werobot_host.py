"""WeRoBot as it is, with WeChat's host compiled in. It has no call for tickets."""

import werobot

import lines

settings = lines.settings
if "tls" in settings:
    lines.lead_host_to(*settings["tls"])

robot = werobot.WeRoBot()
robot.config["APP_ID"] = settings["appid"]
robot.config["APP_SECRET"] = settings["secret"]
lines.serve({"token": lambda: robot.client.token, "call": robot.client.get_menu})
