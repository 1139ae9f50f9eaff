"""The table: one AArch64 System register a line, what names it, who may name it, and what traps it.

Source: Arm ARM (DDI 0487), chapter D24, each register's accessibility pseudocode, in the machine-readable release of
March 2025; ``formal.arch.sysregs`` gives the columns their meaning and checks them.

    n        the indices that exist, "-" for a single register
    o0, o1   op0 and op1
    CRm, op2 as the Arm ARM spells them: 0b10:n[4:3] is the bits 10 followed by bits 4:3 of the index
    EL1, EL0 r, w, rw or -: the accesses that are defined there
    enable   what EL1 must grant to EL0; a/b is a for reads and b for writes. EN and the like are fields of
             PMUSERENR_EL0, where UEN grants whatever EN does and EN whatever ER, CR and SW do; A-B is A unless B takes
             it back. MDSCR_EL1.EnSPM grants, MDSCR_EL1.TDCC takes back
    traps    what traps the access to EL2, fine-grained traps apart: fields of MDCR_EL2, or TTA of CPTR_EL2
    FGT      its bit in HDFGRTR_EL2 for reads and HDFGWTR_EL2 for writes (or in their successors HDFGRTR2_EL2 and
             HDFGWTR2_EL2); w: is for writes only; a bit n... traps when it is 0
    FEAT_    the features it needs: all of A&B, one of A|B; those of its [group] come on top
"""

TABLE = """
# register         n    o0 o1 CRn CRm         op2       EL1 EL0 enable traps     FGT               FEAT_

[breakpoint]
DBGBVR<n>_EL1      0-15 2  0  0   n[3:0]      4         rw  -   -      TDA       DBGBVRn_EL1       -
DBGBCR<n>_EL1      0-15 2  0  0   n[3:0]      5         rw  -   -      TDA       DBGBCRn_EL1       -
DBGWVR<n>_EL1      0-15 2  0  0   n[3:0]      6         rw  -   -      TDA       DBGWVRn_EL1       -
DBGWCR<n>_EL1      0-15 2  0  0   n[3:0]      7         rw  -   -      TDA       DBGWCRn_EL1       -
MDSELR_EL1         -    2  0  0   4           2         rw  -   -      TDA       nMDSELR_EL1       Debugv8p9

[debug]
MDSCR_EL1          -    2  0  0   2           2         rw  -   -      TDA       MDSCR_EL1         -
MDSTEPOP_EL1       -    2  0  0   5           2         rw  -   -      TDA       nMDSTEPOP_EL1     STEP2
OSECCR_EL1         -    2  0  0   6           2         rw  -   -      TDA       OSECCR_EL1        -
DBGCLAIMSET_EL1    -    2  0  7   8           6         rw  -   -      TDA       DBGCLAIM          -
DBGCLAIMCLR_EL1    -    2  0  7   9           6         rw  -   -      TDA       DBGCLAIM          -
DBGAUTHSTATUS_EL1  -    2  0  7   14          6         r   -   -      TDA       DBGAUTHSTATUS_EL1 -

[os]
OSLAR_EL1          -    2  0  1   0           4         w   -   -      TDOSA     OSLAR_EL1         -
OSLSR_EL1          -    2  0  1   1           4         r   -   -      TDOSA     OSLSR_EL1         -
OSDLR_EL1          -    2  0  1   3           4         rw  -   -      TDOSA     OSDLR_EL1         -
DBGPRCR_EL1        -    2  0  1   4           4         rw  -   -      TDOSA     DBGPRCR_EL1       -

[rom]
MDRAR_EL1          -    2  0  1   0           0         r   -   -      TDRA      -                 -

[dcc]
OSDTRRX_EL1        -    2  0  0   0           2         rw  -   -      TDCC|TDA  -                 -
MDCCINT_EL1        -    2  0  0   2           0         rw  -   -      TDCC|TDA  -                 -
OSDTRTX_EL1        -    2  0  0   3           2         rw  -   -      TDCC|TDA  -                 -
MDCCSR_EL0         -    2  3  0   1           0         r   r   TDCC   TDCC|TDA  -                 -
DBGDTR_EL0         -    2  3  0   4           0         rw  rw  TDCC   TDCC|TDA  -                 -
DBGDTRRX_EL0       -    2  3  0   5           0         r   r   TDCC   TDCC|TDA  -                 -
DBGDTRTX_EL0       -    2  3  0   5           0         w   w   TDCC   TDCC|TDA  -                 -

[pmu] PMUv3
PMCR_EL0           -    3  3  9   12          0         rw  rw  EN-UEN TPM|TPMCR w:PMCR_EL0        -
PMCNTENSET_EL0     -    3  3  9   12          1         rw  rw  EN     TPM       PMCNTEN           -
PMCNTENCLR_EL0     -    3  3  9   12          2         rw  rw  EN     TPM       PMCNTEN           -
PMOVSCLR_EL0       -    3  3  9   12          3         rw  rw  EN     TPM       PMOVS             -
PMSWINC_EL0        -    3  3  9   12          4         w   w   SW     TPM       PMSWINC_EL0       -
PMSELR_EL0         -    3  3  9   12          5         rw  rw  ER     TPM       PMSELR_EL0        -
PMCEID0_EL0        -    3  3  9   12          6         r   r   EN-TID TPM       PMCEIDn_EL0       -
PMCEID1_EL0        -    3  3  9   12          7         r   r   EN-TID TPM       PMCEIDn_EL0       -
PMCCNTR_EL0        -    3  3  9   13          0         rw  rw  CR/EN  TPM       PMCCNTR_EL0       -
PMXEVTYPER_EL0     -    3  3  9   13          1         rw  rw  EN     TPM       PMEVTYPERn_EL0    -
PMXEVCNTR_EL0      -    3  3  9   13          2         rw  rw  ER/EN  TPM       PMEVCNTRn_EL0     -
PMUSERENR_EL0      -    3  3  9   14          0         rw  r   -      TPM       PMUSERENR_EL0     -
PMOVSSET_EL0       -    3  3  9   14          3         rw  rw  EN     TPM       PMOVS             -
PMEVCNTR<n>_EL0    0-30 3  3  14  0b10:n[4:3] n[2:0]    rw  rw  ER/EN  TPM       PMEVCNTRn_EL0     -
PMEVTYPER<n>_EL0   0-30 3  3  14  0b11:n[4:3] n[2:0]    rw  rw  EN     TPM       PMEVTYPERn_EL0    -
PMCCFILTR_EL0      -    3  3  14  15          7         rw  rw  EN     TPM       PMCCFILTR_EL0     -
PMINTENSET_EL1     -    3  0  9   14          1         rw  -   -      TPM       PMINTEN           -
PMINTENCLR_EL1     -    3  0  9   14          2         rw  -   -      TPM       PMINTEN           -
PMMIR_EL1          -    3  0  9   14          6         r   -   -      TPM       PMMIR_EL1         PMUv3p4
PMICNTR_EL0        -    3  3  9   4           0         rw  rw  UEN    TPM       nPMICNTR_EL0      PMUv3_ICNTR
PMICFILTR_EL0      -    3  3  9   6           0         rw  rw  UEN    TPM       nPMICFILTR_EL0    PMUv3_ICNTR
PMZR_EL0           -    3  3  9   13          4         w   w   EN     TPM       nPMZR_EL0         PMUv3p9
PMUACR_EL1         -    3  0  9   14          4         rw  -   -      TPM       nPMUACR_EL1       PMUv3p9
PMECR_EL1          -    3  0  9   14          5         rw  -   -      TPM       nPMECR_EL1        EBEP|PMUv3_SS
PMIAR_EL1          -    3  0  9   14          7         rw  -   -      TPM       nPMIAR_EL1        SEBEP
PMSSCR_EL1         -    3  0  9   13          3         rw  -   -      -         nPMSSCR_EL1       PMUv3_SS
PMCCNTSVR_EL1      -    2  0  14  11          7         r   -   -      -         nPMSSDATA         PMUv3_SS
PMEVCNTSVR<n>_EL1  0-30 2  0  14  0b10:n[4:3] n[2:0]    r   -   -      -         nPMSSDATA         PMUv3_SS
PMICNTSVR_EL1      -    2  0  14  12          0         r   -   -      -         nPMSSDATA         PMUv3_SS&PMUv3_ICNTR
PM                 -    3  0  4   3           1         rw  -   -      -         -                 EBEP

[spe_buffer] SPE
PMBLIMITR_EL1      -    3  0  9   10          0         rw  -   -      E2PB      PMBLIMITR_EL1     -
PMBPTR_EL1         -    3  0  9   10          1         rw  -   -      E2PB      PMBPTR_EL1        -
PMBSR_EL1          -    3  0  9   10          3         rw  -   -      E2PB      PMBSR_EL1         -
PMBMAR_EL1         -    3  0  9   10          5         rw  -   -      E2PB      nPMBMAR_EL1       SPE_nVM
PMBIDR_EL1         -    3  0  9   10          7         r   -   -      -         PMBIDR_EL1        -

[spe_control] SPE
PMSCR_EL1          -    3  0  9   9           0         rw  -   -      TPMS      PMSCR_EL1         -
PMSNEVFR_EL1       -    3  0  9   9           1         rw  -   -      TPMS      nPMSNEVFR_EL1     SPEv1p2
PMSICR_EL1         -    3  0  9   9           2         rw  -   -      TPMS      PMSICR_EL1        -
PMSIRR_EL1         -    3  0  9   9           3         rw  -   -      TPMS      PMSIRR_EL1        -
PMSFCR_EL1         -    3  0  9   9           4         rw  -   -      TPMS      PMSFCR_EL1        -
PMSEVFR_EL1        -    3  0  9   9           5         rw  -   -      TPMS      PMSEVFR_EL1       -
PMSLATFR_EL1       -    3  0  9   9           6         rw  -   -      TPMS      PMSLATFR_EL1      -
PMSIDR_EL1         -    3  0  9   9           7         r   -   -      TPMS      PMSIDR_EL1        -
PMSDSFR_EL1        -    3  0  9   10          4         rw  -   -      TPMS      nPMSDSFR_EL1      SPE_FDS

[trace_filter] TRF
TRFCR_EL1          -    3  0  1   2           1         rw  -   -      TTRF      w:TRFCR_EL1       -

[trace_buffer] TRBE
TRBLIMITR_EL1      -    3  0  9   11          0         rw  -   -      E2TB      TRBLIMITR_EL1     -
TRBPTR_EL1         -    3  0  9   11          1         rw  -   -      E2TB      TRBPTR_EL1        -
TRBBASER_EL1       -    3  0  9   11          2         rw  -   -      E2TB      TRBBASER_EL1      -
TRBSR_EL1          -    3  0  9   11          3         rw  -   -      E2TB      TRBSR_EL1         -
TRBMAR_EL1         -    3  0  9   11          4         rw  -   -      E2TB      TRBMAR_EL1        -
TRBMPAM_EL1        -    3  0  9   11          5         rw  -   -      E2TB      nTRBMPAM_EL1      TRBE_MPAM
TRBTRG_EL1         -    3  0  9   11          6         rw  -   -      E2TB      TRBTRG_EL1        -
TRBIDR_EL1         -    3  0  9   11          7         r   -   -      -         TRBIDR_EL1        -

[trace] TRC_SR
TRCTRACEIDR        -    2  1  0   0           1         rw  -   -      TTA       TRC               -
TRCVICTLR          -    2  1  0   0           2         rw  -   -      TTA       TRCVICTLR         -
TRCSEQEVR<n>       0-2  2  1  0   0b00:n[1:0] 4         rw  -   -      TTA       TRC               -
TRCCNTRLDVR<n>     0-3  2  1  0   0b00:n[1:0] 5         rw  -   -      TTA       TRC               -
TRCIDR8            -    2  1  0   0           6         r   -   -      TTA       TRCID             -
TRCIMSPEC0         -    2  1  0   0           7         rw  -   -      TTA       TRCIMSPECn        -
TRCPRGCTLR         -    2  1  0   1           0         rw  -   -      TTA       TRCPRGCTLR        -
TRCQCTLR           -    2  1  0   1           1         rw  -   -      TTA       TRC               -
TRCVIIECTLR        -    2  1  0   1           2         rw  -   -      TTA       TRC               -
TRCIDR9            -    2  1  0   1           6         r   -   -      TTA       TRCID             -
TRCIMSPEC<n>       1-7  2  1  0   0b0:n[2:0]  7         rw  -   -      TTA       TRCIMSPECn        -
TRCITEEDCR         -    2  1  0   2           1         rw  -   -      TTA       TRC               ITE
TRCVISSCTLR        -    2  1  0   2           2         rw  -   -      TTA       TRC               -
TRCIDR10           -    2  1  0   2           6         r   -   -      TTA       TRCID             -
TRCSTATR           -    2  1  0   3           0         r   -   -      TTA       TRCSTATR          -
TRCVIPCSSCTLR      -    2  1  0   3           2         rw  -   -      TTA       TRC               -
TRCIDR11           -    2  1  0   3           6         r   -   -      TTA       TRCID             -
TRCCONFIGR         -    2  1  0   4           0         rw  -   -      TTA       TRC               -
TRCCNTCTLR<n>      0-3  2  1  0   0b01:n[1:0] 5         rw  -   -      TTA       TRC               -
TRCIDR12           -    2  1  0   4           6         r   -   -      TTA       TRCID             -
TRCIDR13           -    2  1  0   5           6         r   -   -      TTA       TRCID             -
TRCAUXCTLR         -    2  1  0   6           0         rw  -   -      TTA       TRCAUXCTLR        -
TRCSEQRSTEVR       -    2  1  0   6           4         rw  -   -      TTA       TRC               -
TRCSEQSTR          -    2  1  0   7           4         rw  -   -      TTA       TRCSEQSTR         -
TRCEVENTCTL0R      -    2  1  0   8           0         rw  -   -      TTA       TRC               -
TRCEXTINSELR<n>    0-3  2  1  0   0b10:n[1:0] 4         rw  -   -      TTA       TRC               -
TRCCNTVR<n>        0-3  2  1  0   0b10:n[1:0] 5         rw  -   -      TTA       TRCCNTVRn         -
TRCIDR0            -    2  1  0   8           7         r   -   -      TTA       TRCID             -
TRCEVENTCTL1R      -    2  1  0   9           0         rw  -   -      TTA       TRC               -
TRCIDR1            -    2  1  0   9           7         r   -   -      TTA       TRCID             -
TRCRSR             -    2  1  0   10          0         rw  -   -      TTA       TRC               -
TRCIDR2            -    2  1  0   10          7         r   -   -      TTA       TRCID             -
TRCSTALLCTLR       -    2  1  0   11          0         rw  -   -      TTA       TRC               -
TRCIDR3            -    2  1  0   11          7         r   -   -      TTA       TRCID             -
TRCTSCTLR          -    2  1  0   12          0         rw  -   -      TTA       TRC               -
TRCIDR4            -    2  1  0   12          7         r   -   -      TTA       TRCID             -
TRCSYNCPR          -    2  1  0   13          0         rw  -   -      TTA       TRC               -
TRCIDR5            -    2  1  0   13          7         r   -   -      TTA       TRCID             -
TRCCCCTLR          -    2  1  0   14          0         rw  -   -      TTA       TRC               -
TRCIDR6            -    2  1  0   14          7         r   -   -      TTA       TRCID             -
TRCBBCTLR          -    2  1  0   15          0         rw  -   -      TTA       TRC               -
TRCIDR7            -    2  1  0   15          7         r   -   -      TTA       TRCID             -
TRCRSCTLR<n>       2-31 2  1  1   n[3:0]      0b00:n[4] rw  -   -      TTA       TRC               -
TRCSSCCR<n>        0-7  2  1  1   0b0:n[2:0]  2         rw  -   -      TTA       TRC               -
TRCSSPCICR<n>      0-7  2  1  1   0b0:n[2:0]  3         rw  -   -      TTA       TRC               -
TRCOSLSR           -    2  1  1   1           4         r   -   -      TTA       TRCOSLSR          -
TRCSSCSR<n>        0-7  2  1  1   0b1:n[2:0]  2         rw  -   -      TTA       TRCSSCSRn         -
TRCACVR<n>         0-15 2  1  2   n[2:0]:0b0  0b00:n[3] rw  -   -      TTA       TRC               -
TRCACATR<n>        0-15 2  1  2   n[2:0]:0b0  0b01:n[3] rw  -   -      TTA       TRC               -
TRCCIDCVR<n>       0-7  2  1  3   n[2:0]:0b0  0         rw  -   -      TTA       TRC               -
TRCVMIDCVR<n>      0-7  2  1  3   n[2:0]:0b0  1         rw  -   -      TTA       TRC               -
TRCCIDCCTLR0       -    2  1  3   0           2         rw  -   -      TTA       TRC               -
TRCCIDCCTLR1       -    2  1  3   1           2         rw  -   -      TTA       TRC               -
TRCVMIDCCTLR0      -    2  1  3   2           2         rw  -   -      TTA       TRC               -
TRCVMIDCCTLR1      -    2  1  3   3           2         rw  -   -      TTA       TRC               -
TRCDEVID           -    2  1  7   2           7         r   -   -      TTA       TRCID             -
TRCCLAIMSET        -    2  1  7   8           6         rw  -   -      TTA       TRCCLAIM          -
TRCCLAIMCLR        -    2  1  7   9           6         rw  -   -      TTA       TRCCLAIM          -
TRCAUTHSTATUS      -    2  1  7   14          6         r   -   -      TTA       TRCAUTHSTATUS     -
TRCDEVARCH         -    2  1  7   15          6         r   -   -      TTA       TRCID             -
TRCITECR_EL1       -    3  0  1   2           3         rw  -   -      -         nTRCITECR_EL1     ITE

[system_pmu] SPMU
SPMCR_EL0          -    2  3  9   12          0         rw  rw  EnSPM  EnSPM     nSPMCR_EL0        -
SPMCNTENSET_EL0    -    2  3  9   12          1         rw  rw  EnSPM  EnSPM     nSPMCNTEN         -
SPMCNTENCLR_EL0    -    2  3  9   12          2         rw  rw  EnSPM  EnSPM     nSPMCNTEN         -
SPMOVSCLR_EL0      -    2  3  9   12          3         rw  rw  EnSPM  EnSPM     nSPMOVS           -
SPMZR_EL0          -    2  3  9   12          4         w   w   EnSPM  EnSPM     nSPMEVCNTRn_EL0   SPMU2
SPMSELR_EL0        -    2  3  9   12          5         rw  rw  EnSPM  EnSPM     nSPMSELR_EL0      -
SPMOVSSET_EL0      -    2  3  9   14          3         rw  rw  EnSPM  EnSPM     nSPMOVS           -
SPMEVCNTR<n>_EL0   0-15 2  3  14  0b000:n[3]  n[2:0]    rw  rw  EnSPM  EnSPM     nSPMEVCNTRn_EL0   -
SPMEVTYPER<n>_EL0  0-15 2  3  14  0b001:n[3]  n[2:0]    rw  rw  EnSPM  EnSPM     nSPMEVTYPERn_EL0  -
SPMEVFILTR<n>_EL0  0-15 2  3  14  0b010:n[3]  n[2:0]    rw  rw  EnSPM  EnSPM     nSPMEVTYPERn_EL0  -
SPMEVFILT2R<n>_EL0 0-15 2  3  14  0b011:n[3]  n[2:0]    rw  rw  EnSPM  EnSPM     nSPMEVTYPERn_EL0  -
SPMINTENSET_EL1    -    2  0  9   14          1         rw  -   -      EnSPM     nSPMINTEN         -
SPMINTENCLR_EL1    -    2  0  9   14          2         rw  -   -      EnSPM     nSPMINTEN         -
SPMACCESSR_EL1     -    2  0  9   13          3         rw  -   -      EnSPM     nSPMACCESSR_EL1   -
SPMIIDR_EL1        -    2  0  9   13          4         r   -   -      EnSPM     nSPMID            -
SPMDEVARCH_EL1     -    2  0  9   13          5         r   -   -      EnSPM     nSPMID            -
SPMDEVAFF_EL1      -    2  0  9   13          6         r   -   -      EnSPM     nSPMDEVAFF_EL1    -
SPMCFGR_EL1        -    2  0  9   13          7         r   -   -      EnSPM     nSPMID            -
SPMCGCR<n>_EL1     0-1  2  0  9   13          0b00:n[0] r   -   -      EnSPM     nSPMID            -
SPMSCR_EL1         -    2  7  9   14          7         rw  -   -      EnSPM     nSPMSCR_EL1       -

[branch_record] BRBE
BRBINF<n>_EL1      0-31 2  1  8   n[3:0]      n[4]:0b00 r   -   -      -         nBRBDATA          -
BRBSRC<n>_EL1      0-31 2  1  8   n[3:0]      n[4]:0b01 r   -   -      -         nBRBDATA          -
BRBTGT<n>_EL1      0-31 2  1  8   n[3:0]      n[4]:0b10 r   -   -      -         nBRBDATA          -
BRBCR_EL1          -    2  1  9   0           0         rw  -   -      -         nBRBCTL           -
BRBFCR_EL1         -    2  1  9   0           1         rw  -   -      -         nBRBCTL           -
BRBTS_EL1          -    2  1  9   0           2         rw  -   -      -         nBRBDATA          -
BRBINFINJ_EL1      -    2  1  9   1           0         rw  -   -      -         nBRBDATA          -
BRBSRCINJ_EL1      -    2  1  9   1           1         rw  -   -      -         nBRBDATA          -
BRBTGTINJ_EL1      -    2  1  9   1           2         rw  -   -      -         nBRBDATA          -
BRBIDR0_EL1        -    2  1  9   2           0         r   -   -      -         nBRBIDR           -
"""
