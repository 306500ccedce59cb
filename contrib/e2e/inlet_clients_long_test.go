//go:build long && !race

package e2e

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab/ledger"
)

// nodemailer sends the message on its standard input as it is.
const nodemailer = `
const message = require('fs').readFileSync(0);
require('/usr/share/nodejs/nodemailer').createTransport({ host: '127.0.0.1', port: 8825, secure: false })
  .sendMail({ envelope: { from: 'news@lab.test', to: ['node@far.test', 'second@far.example'] }, raw: message })
  .catch((e) => { console.error(e); process.exit(1); });
`

// phpmailer makes a newsletter, as phpList does, sends it and prints what it has sent: its
// class SMTP ends the content with one more line end.
const phpmailer = `<?php
require '/usr/share/php/libphp-phpmailer/autoload.php';
$m = new PHPMailer\PHPMailer\PHPMailer(true);
$m->isSMTP();
$m->Host = '127.0.0.1';
$m->Port = 8825;
$m->SMTPAuth = false;
$m->CharSet = 'utf-8';
$m->setFrom('news@lab.test', 'News');
$m->addAddress('php@far.test');
$m->addCC('second@far.example');
$m->addCustomHeader('List-Id', 'News <news.lab.test>');
$m->addCustomHeader('List-Unsubscribe', '<https://lab.test/u>');
$m->addCustomHeader('` + ledger.IDHeader + `', 'phpmailer');
$m->Subject = 'News';
$m->Encoding = '8bit';
$m->Body = ".\n..\n.dot\n\nGrüße\n\ttab\n" . str_repeat('0123456789', 80) . "\nFrom here\n.\n";
$m->send();
echo $m->getSentMIMEMessage(), "\r\n";
`

// TestFurtherMailersSpeakToTheInlet needs what "make long" installs: Node.js and PHP.
func TestFurtherMailersSpeakToTheInlet(t *testing.T) {
	t.Parallel()
	speakToTheInlet(t, []mailer{
		{name: "nodemailer", run: []string{"node", "DIR/send.js"}, files: map[string]string{"send.js": nodemailer}},
		{name: "phpmailer", run: []string{"php", "DIR/send.php"}, files: map[string]string{"send.php": phpmailer}, own: true},
	})
}

// TestMailmanSendsByTheInlet has the real list software send by the inlet, each recipient with a
// return path of its own.
func TestMailmanSendsByTheInlet(t *testing.T) {
	t.Parallel()
	postfix, lmtp := hostsLists(t)
	s, addr := withInlet(t, setup{keep: true, postfix: postfix})
	r := enter(t, s)
	probes := r.spools(addr)
	list := r.mailing(lmtp, addr, "reader@far.test", "second@far.example")
	list.post()
	r.until("two copies", func() bool { return len(r.all()) >= probes+2 })
	r.rest()
	members := 0
	for _, a := range r.all() {
		if strings.HasPrefix(a.id, "probe") {
			continue
		}
		members++
		verp := "news-bounces+" + strings.Replace(a.recipient, "@", "=", 1) + "@" + listDomain
		if !a.ours() || !strings.HasPrefix(a.qid, "I") || a.sender != verp {
			t.Errorf("to %s with queue id %q, spool id %q, from %s:\n%s", a.recipient, a.qid, a.spool, a.sender, a.content)
		}
	}
	if members != 2 {
		t.Errorf("%d copies to members", members)
	}
}
