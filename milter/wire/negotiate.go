package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/emersion/go-milter"
)

// version is the newest protocol version spoken.
const version = 6

// wantedActions are the changes we may ask for. Asking for one that was not
// offered makes the MTA give up the milter, so the answer is cut to the offer.
const wantedActions = milter.OptRemoveRcpt | milter.OptSetSymList

// wantedSteps are the steps we want: no reply wherever nothing is decided, and
// header values with their leading blank. The end of headers keeps its reply:
// the decision is made there. SMFIP_SKIP is not asked for: to skip the rest of a long body
// is an answer to a piece of it, so that all diverted mail would have to wait for answers to
// its pieces, and terms hold for the connection. A Handler that reads enough ignores the rest.
const wantedSteps = milter.OptNoConnReply | milter.OptNoHeloReply | milter.OptNoMailReply |
	milter.OptNoRcptReply | milter.OptNoDataReply | milter.OptNoUnknownReply |
	milter.OptNoHeaderReply | milter.OptNoBodyReply | milter.OptHeaderLeadingSpace

// symlist is what we ask the MTA to send at each stage, so that no setting of
// milter_*_macros takes away what a decision rests on.
var symlist = [...]struct {
	stage  milter.Stage
	macros string
}{
	{milter.StageConnect, "j v {daemon_name}"},
	{milter.StageHelo, "{tls_version}"},
	{milter.StageMailFrom, "i {auth_type} {auth_authen} {tls_version}"},
	{milter.StageRcptTo, "i {rcpt_mailer} {rcpt_host} {rcpt_addr}"},
	{milter.StageEOH, "i"},
	{milter.StageEOM, "i"},
}

// noReply maps a command to the step bit that says it has no reply.
func noReply(c milter.Code) milter.OptProtocol {
	switch c {
	case milter.CodeConn:
		return milter.OptNoConnReply
	case milter.CodeHelo:
		return milter.OptNoHeloReply
	case milter.CodeMail:
		return milter.OptNoMailReply
	case milter.CodeRcpt:
		return milter.OptNoRcptReply
	case milter.CodeData:
		return milter.OptNoDataReply
	case codeUnknown:
		return milter.OptNoUnknownReply
	case milter.CodeHeader:
		return milter.OptNoHeaderReply
	case milter.CodeBody:
		return milter.OptNoBodyReply
	}
	return 0
}

// terms are what both sides agreed on.
type terms struct {
	version uint32
	actions milter.OptAction
	steps   milter.OptProtocol
}

// negotiate answers an offer (the data of an OPTNEG packet).
func negotiate(offer []byte) (terms, error) {
	t := terms{
		version: min(version, binary.BigEndian.Uint32(offer)),
		actions: wantedActions & milter.OptAction(binary.BigEndian.Uint32(offer[4:])),
		steps:   wantedSteps & milter.OptProtocol(binary.BigEndian.Uint32(offer[8:])),
	}
	if t.version < 2 {
		return t, fmt.Errorf("milter protocol version %d is too old", t.version)
	}
	return t, nil
}

// packet is the answer to the offer, as it goes over the wire.
func (t terms) packet() []byte {
	d := binary.BigEndian.AppendUint32(nil, t.version)
	d = binary.BigEndian.AppendUint32(d, uint32(t.actions))
	d = binary.BigEndian.AppendUint32(d, uint32(t.steps))
	if t.actions&milter.OptSetSymList != 0 {
		for _, s := range symlist {
			d = binary.BigEndian.AppendUint32(d, uint32(s.stage))
			d = append(append(d, s.macros...), 0)
		}
	}
	return appendPacket(nil, byte(milter.CodeOptNeg), string(d))
}

// replies reports whether a command is answered.
func (t terms) replies(c milter.Code) bool {
	switch c {
	case milter.CodeMacro, milter.CodeAbort, milter.CodeQuit, milter.CodeQuitNewConn:
		return false
	}
	return t.steps&noReply(c) == 0
}
