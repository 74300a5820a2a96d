// Puts an SDK at a test's disposal: the settings are the first argument, a command is a line on standard input, and its answer
// is a line of JSON on standard output, with the requests that the SDK sent meanwhile as Node's own HTTP client reported them.
'use strict';

const diagnostics = require('node:diagnostics_channel');
const dns = require('node:dns');
const readline = require('node:readline');

const sent = [];

diagnostics.subscribe('http.client.request.start', ({ request }) => {
  sent.push(`${request.method} ${request.path.split('?')[0]}`);
});

// Every address of a test is a number: no SDK ever reaches the real WeChat.
dns.lookup = (host) => {
  throw new Error(`no test calls ${host}`);
};

exports.settings = JSON.parse(process.argv[2]);

exports.serve = async (commands) => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    sent.length = 0;
    const answer = await commands[line]().then((value) => ({ value }), (error) => ({ error: String(error) }));
    process.stdout.write(`${JSON.stringify({ ...answer, requests: sent })}\n`);
  }
  process.exit();
};
