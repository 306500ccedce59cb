// Package e2e has no code of its own. Its tests run the whole of Millrace, the
// programs as they are built, beside a real Postfix or Sendmail and in front of a fake
// internet, and hold what was sent against what was received:
//
//	make test
//	go test ./contrib/e2e -run TestDANE -v
//
// A test opens a room (room_test.go): a host MTA, both daemons and receivers of its own,
// put together by package rig. It sends by room.send, or word by word as a peer
// (dialogue_test.go), and compares with room.exact or room.exactly what has arrived and
// by which way. To crash a side at one packet of the milter protocol it puts a tap
// between Postfix and the milter (wiretap_test.go).
//
// One file is about one theme:
//
//	bytes, smuggling, volume         content arrives as it was sent
//	envelope, arguments, verdict     recipients, ESMTP arguments, what is diverted
//	inbound, chroot, sasl, session   where mail comes from, and how
//	crash, crash_moments, restart    kill -9 under load, and in the moments around a verdict
//	bounces, bounces_and_handback, mailman, sympa, suppress, reports
//	                                 what senders and list software are told, and what goes back to the host
//	handback, handback_kill, handback_outage, handback_socket, drain, hostroom
//	                                 the way back: a hostile main.cf, crashes, a closed port, a host that has enough to do
//	receivers, refusals, tlspolicy   real MTAs at the far end; DANE and MTA-STS, with the zones of dns_test.go
//	check, config, setup, admin_days, daily_mail
//	                                 what admins do, and are told; testdata/admin_days has one script for each of their tasks
//	trouble, flowdelay, queueid, pflogsumm
//	                                 full disks, daemons that are down, reused queue ids, what pflogsumm makes of the logs
//	pools                            where mail leaves from, over greylisting, restarts and other weights
//	webhook                          events reach their receiver over kill -9; simulated outcomes
//	inlet, inlet_clients, inlet_dkim, inlet_offering
//	                                 SMTP without a milter: list software and mailers, Exim and OpenSMTPD as the host
//	half                             a newsletter beside a campaign with an id for each recipient
//	sendmail, sendmail_session       the same with Sendmail
//
// The tests need root and what make deps installs and unpacks, and run in namespaces of
// their own, so nothing leaves the machine. With LAB_RACE=1 the programs carry the race
// detector, and a race that it finds fails the test that caused it. The build tag "long"
// sends about 1 GB where otherwise 120 MB are sent, hands 10,000 messages back under
// 60 crashes instead of 500 under 6, kills the agent 60 times instead of 10 while a webhook is
// posted to, and has a campaign of 50,000 where otherwise it is 1,000.
package e2e
